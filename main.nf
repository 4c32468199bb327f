#!/usr/bin/env nextflow
/*
 * multivi-nf: MultiVI for mosaics of RNA, chromatin accessibility and surface protein.
 * The door: parameters -> cells -> a model -> results, or the paper's experiments.
 */

include { checked_parameters ; help_text                  } from './modules/parameters'
include { checkpoint_notice ; failure_text ; success_text ; watch_training ; write_parameters } from './modules/closing'
include { outdir_problem ; release_outdir ; take_outdir ; write_manifest } from './modules/outdir'
include { contrasts_of                                    } from './modules/channels'
include { blind                                           } from './modules/runs'
include { CELLS                                           } from './workflows/cells'
include { MODEL                                           } from './workflows/model'
include { REPROCESS                                       } from './workflows/reprocess'
include { BENCHMARK ; SPLITS                              } from './workflows/benchmark'

workflow {
    main:
    if (params.help.toString() == 'true') {
        println(help_text())
    }
    else if (params.version.toString() == 'true') {
        println("${workflow.manifest.name.tokenize('/').last()} ${workflow.manifest.version}")
    }
    else {
        settings = checked_parameters(params)
        problem = workflow.preview ? '' : outdir_problem(settings) ?: take_outdir(settings)
        problem ? error(problem) : null
        workflow.onComplete = {
            def untold = workflow.preview ? '' : write_manifest(settings)
            release_outdir(settings)
            workflow.success && !untold ? log.info(success_text(settings.outdir)) : System.err.println([failure_text(), untold].findAll().join('\n'))
        }
        notice = checkpoint_notice(settings)
        notice ? log.warn(notice) : null
        workflow.preview ? null : write_parameters(settings)
        workflow.preview ? null : watch_training(settings)
        CELLS(settings)
        if (settings.workflow == 'benchmark') {
            SPLITS(settings, CELLS.out.mosaic)
            MODEL(blind(settings), SPLITS.out.mosaics, SPLITS.out.unseen, SPLITS.out.contrasts)
            BENCHMARK(
                settings, CELLS.out.mosaic, SPLITS.out.runs, SPLITS.out.plan,
                MODEL.out.embedding, MODEL.out.imputed, MODEL.out.tables, MODEL.out.cost,
            )
        }
        else {
            MODEL(
                settings,
                CELLS.out.mosaic.map { mosaic -> [[:], mosaic] },
                CELLS.out.measured.flatMap { found -> found.intersect(settings.impute.tokenize(',')) }.map { modality -> [[:], modality, []] },
                CELLS.out.samples.combine(CELLS.out.measured.map { found -> [found] })
                    .flatMap { json, found -> contrasts_of(json, found) }.map { contrast -> [[:], contrast] },
            )
            REPROCESS(
                settings, CELLS.out.rows, CELLS.out.peaks, CELLS.out.qc,
                MODEL.out.model.map { _run, model -> model },
                MODEL.out.embedding.map { _run, embedding -> embedding },
                MODEL.out.imputed.map { _run, modality, chunk -> [modality, chunk] },
                MODEL.out.tables.map { _run, table -> table },
            )
        }
    }
}
